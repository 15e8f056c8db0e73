variable "name" {
  description = "The table's name, as in DATABASE_TABLE"
  type        = string
}
