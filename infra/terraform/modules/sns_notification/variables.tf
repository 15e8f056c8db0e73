variable "name" {
  description = "The topic's name"
  type        = string
}

variable "emails" {
  description = "Addresses that are told; each has to confirm"
  type        = list(string)
  default     = []
}

variable "queues" {
  description = "SQS queues that get messages, by any name, with headgate's topics that each listens to; each queue's policy must allow the topic"
  type        = map(object({ arn = string, topics = list(string) }))
  default     = {}
}

variable "encrypted" {
  description = "Encrypt with a key of the topic's own (about 1 USD a month)"
  type        = bool
  default     = true
}

variable "publishing_services" {
  description = "AWS services that publish here, e.g. cloudwatch.amazonaws.com; none where only roles of this account do"
  type        = list(string)
  default     = []
}

variable "alarm_topic_arn" {
  description = "Who is told of messages that could not be delivered; null: nobody"
  type        = string
  default     = null
}
