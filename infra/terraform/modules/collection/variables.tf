variable "name" {
  description = "The function's name, and the prefix of what belongs to it"
  type        = string
}

variable "environment" {
  description = "dev, prod, ...; a dimension of the healing metrics"
  type        = string
}

variable "region" {
  type = string
}

variable "code" {
  description = "See module lambda_function"
  type        = any
}

variable "config_path" {
  description = "headgate.toml in the image or the zip"
  type        = string
  default     = "/var/task/headgate.toml"
}

variable "log_level" {
  type    = string
  default = "INFO"
}

variable "log_retention_days" {
  type    = number
  default = 30
}

variable "items_table" {
  type = object({ name = string, arn = string })
}

variable "ledger_table" {
  type = object({ name = string, arn = string })
}

variable "raw_bucket" {
  type = object({ name = string, arn = string })
}

variable "news_topic" {
  type = object({ arn = string })
}

variable "alert_topic" {
  type = object({ arn = string })
}

variable "topic_key_arns" {
  description = "Keys of the two topics"
  type        = list(string)
}

variable "tiingo_secret_arn" {
  type = string
}

variable "finnhub_secret_arn" {
  type = string
}

variable "alarm_topic_arn" {
  type = string
}

variable "more_environment" {
  description = "Overrides of headgate.toml, e.g. HEADGATE__COLLECTION__TICKERS"
  type        = map(string)
  default     = {}
}
