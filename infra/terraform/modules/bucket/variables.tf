variable "name" {
  description = "The bucket's name, unique in the world"
  type        = string
}

variable "expiration_days" {
  description = "Prefix -> days after which its objects are deleted"
  type        = map(number)
  default     = {}
}

variable "noncurrent_days" {
  description = "Days that an overwritten or deleted version can be restored"
  type        = number
  default     = 30
}

variable "force_destroy" {
  description = "Let `terraform destroy` delete a bucket that is not empty"
  type        = bool
  default     = false
}
