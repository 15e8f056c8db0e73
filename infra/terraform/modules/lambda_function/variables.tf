variable "name" {
  description = "The function's name; its log group is /aws/lambda/{name}"
  type        = string
}

variable "description" {
  description = "What it does"
  type        = string
}

variable "handler" {
  description = "The entry point, e.g. headgate.handlers.collect"
  type        = string
}

variable "code" {
  description = "A container image, or a zip with its layers (module lambda_packages)"
  type = object({
    image_uri      = optional(string)
    package        = optional(string)
    package_sha256 = optional(string)
    runtime        = optional(string, "python3.12")
    layers         = optional(list(string), [])
  })

  validation {
    condition     = (var.code.image_uri == null) != (var.code.package == null)
    error_message = "Give either code.image_uri or code.package."
  }
}

variable "statements" {
  description = "Statements of the role's policy: exactly what the handler calls"
  type        = any
}

variable "environment" {
  description = "Environment variables"
  type        = map(string)
}

variable "timeout_s" {
  type = number
}

variable "memory_mb" {
  type = number
}

variable "reserved_concurrency" {
  description = "Invocations at once; -1: no limit of its own"
  type        = number
  default     = -1
}

variable "log_retention_days" {
  type    = number
  default = 30
}

variable "failure_queue_arn" {
  description = "The SQS queue for asynchronous events that failed after the retries; null for functions that SQS invokes"
  type        = string
  default     = null
}

variable "async_retry_attempts" {
  description = "Repeated runs of an asynchronous event that raised"
  type        = number
  default     = 0
}

variable "maximum_event_age_s" {
  description = "An asynchronous event that waited longer is not run"
  type        = number
  default     = 300
}

variable "alarm_topic_arn" {
  description = "Who is told"
  type        = string
}

variable "errors_alarm" {
  description = "So many errors in five minutes raise the alarm"
  type        = number
  default     = 1
}

variable "duration_alarm_ms" {
  description = "A run that takes so long raises the alarm; null: 80 % of the time-out"
  type        = number
  default     = null
}

variable "duration_alarm_periods" {
  description = "Periods of five minutes in a row with such a run"
  type        = number
  default     = 1
}
