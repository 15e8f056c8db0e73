variable "name" {
  description = "The table's name, as in DATABASE_TABLE"
  type        = string
}

variable "deletion_protection" {
  description = "Refuse to delete the table"
  type        = bool
  default     = true
}
