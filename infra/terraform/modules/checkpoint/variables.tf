variable "name" {
  description = "The function's name, and the prefix of what belongs to it"
  type        = string
}

variable "code" {
  description = "See module lambda_function"
  type        = any
}

variable "source_bucket" {
  description = "Where the event logs are"
  type        = object({ name = string, arn = string })
}

variable "source_prefix" {
  description = "Only logs under this prefix; empty: all"
  type        = string
  default     = ""
}

variable "checkpoint_bucket" {
  description = "Where the checkpoint is; versioned, so that every run can be undone"
  type        = object({ name = string, arn = string })
}

variable "checkpoint_key" {
  type    = string
  default = "checkpoints/events.parquet"
}

variable "schedule_expression" {
  type    = string
  default = "rate(1 hour)"
}

variable "log_level" {
  type    = string
  default = "INFO"
}

variable "alarm_topic_arn" {
  type = string
}
