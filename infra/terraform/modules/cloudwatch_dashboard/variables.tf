variable "name" {
  description = "The dashboard's name"
  type        = string
}

variable "region" {
  description = "Where the metrics are"
  type        = string
}

variable "function_names" {
  description = "Lambda functions to show"
  type        = list(string)
}

variable "queue_names" {
  description = "SQS queues to show, dead-letter queues among them"
  type        = list(string)
}
