variable "region" {
  type    = string
  default = "us-east-1"
}

variable "image_uri" {
  description = "The container image (infra/docker/lambda.Dockerfile), by digest; null: zips from var.packages"
  type        = string
  default     = null
}

variable "packages" {
  description = "The folder that `headgate package lambda` wrote, where no image is given"
  type        = string
  default     = "../../../../build/lambda"
}

variable "external_layer_arns" {
  description = "Layers of another project, powertools and data_processing, instead of those of var.packages"
  type        = list(string)
  default     = []
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

variable "event_log_bucket" {
  description = "The bucket that the event logs are in; null: no checkpoint"
  type        = string
  default     = null
}

variable "event_log_prefix" {
  type    = string
  default = ""
}
