variable "name" {
  description = "The schedule's name"
  type        = string
}

variable "function_arn" {
  description = "The Lambda function that collects"
  type        = string
}
