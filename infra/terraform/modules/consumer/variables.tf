variable "name" {
  description = "The queue's and the function's name"
  type        = string
}

variable "consumer" {
  description = "The consumer's name in headgate.toml"
  type        = string
}

variable "environment" {
  type = string
}

variable "region" {
  type = string
}

variable "code" {
  description = "See module lambda_function"
  type        = any
}

variable "topic_arn" {
  description = "The topic that feeds the queue; it needs a subscription (module sns_notification, queues)"
  type        = string
}

variable "items_table" {
  type = object({ name = string, arn = string })
}

variable "ledger_table" {
  type = object({ name = string, arn = string })
}

variable "config_path" {
  description = "headgate.toml in the image or the zip"
  type        = string
  default     = "/var/task/headgate.toml"
}

variable "log_level" {
  type    = string
  default = "INFO"
}

variable "log_retention_days" {
  type    = number
  default = 30
}

variable "alarm_topic_arn" {
  type = string
}

variable "maximum_receives" {
  description = "Deliveries before a message is a dead letter"
  type        = number
  default     = 5
}

variable "dead_letters_alarm" {
  type    = number
  default = 1
}

variable "batch_size" {
  type    = number
  default = 10
}

variable "maximum_concurrency" {
  description = "Invocations at once, from 2"
  type        = number
  default     = 10
}
