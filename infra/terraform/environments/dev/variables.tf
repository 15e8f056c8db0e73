variable "region" {
  type    = string
  default = "us-east-1"
}

variable "image_uri" {
  description = "The container image with headgate, its configuration and awslambdaric"
  type        = string
}

variable "tiingo_secret_arn" {
  type = string
}

variable "finnhub_secret_arn" {
  type = string
}

variable "operations_emails" {
  type    = list(string)
  default = []
}
