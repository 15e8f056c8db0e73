variable "name" {
  description = "The table's name"
  type        = string
}

variable "deletion_protection" {
  description = "Refuse to delete the table"
  type        = bool
  default     = true
}
