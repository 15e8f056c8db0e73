variable "name" {
  description = "The topic's name"
  type        = string
}

variable "emails" {
  description = "Addresses that are told; each has to confirm"
  type        = list(string)
  default     = []
}

variable "queue_arns" {
  description = "SQS queues that get every message"
  type        = list(string)
  default     = []
}
