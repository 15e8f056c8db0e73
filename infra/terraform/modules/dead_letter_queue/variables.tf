variable "name" {
  description = "The queue's name"
  type        = string
}

variable "alarm_topic_arn" {
  description = "Who is told"
  type        = string
}

variable "alarm_depth" {
  description = "So many messages raise the alarm"
  type        = number
  default     = 1
}

variable "sending_services" {
  description = "AWS services that put messages here without a role of their own, e.g. sns.amazonaws.com"
  type        = list(string)
  default     = []
}
