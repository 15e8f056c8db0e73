variable "name" {
  description = "The dashboard's name, and the alarms' prefix"
  type        = string
}

variable "region" {
  description = "Where the metrics are"
  type        = string
}

variable "function_name" {
  description = "The Lambda function that collects"
  type        = string
}

variable "alert_topic_arn" {
  description = "Who is told"
  type        = string
}
