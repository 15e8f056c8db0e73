variable "name" {
  description = "The schedule's name"
  type        = string
}

variable "function_arn" {
  description = "The Lambda function to invoke"
  type        = string
}

variable "dead_letter_arn" {
  description = "The SQS queue for events that could not be delivered"
  type        = string
}

variable "schedule_expression" {
  description = "cron(...) or rate(...)"
  type        = string
  default     = "cron(*/5 9-16 ? * MON-FRI *)"
}

variable "timezone" {
  description = "The time zone of a cron expression"
  type        = string
  default     = "America/New_York"
}

variable "input" {
  description = "The event that the function receives"
  type        = any
  default = {
    source        = "aws.events"
    "detail-type" = "Scheduled Event"
    time          = "<aws.scheduler.scheduled-time>"
  }
}

variable "retry_attempts" {
  description = "Repeated attempts to invoke the function"
  type        = number
  default     = 1
}

variable "maximum_event_age_s" {
  description = "An event that is older is not delivered; the next one is due by then"
  type        = number
  default     = 240
}
