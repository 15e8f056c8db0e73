output "name" {
  value = aws_dynamodb_table.items.name
}

output "arn" {
  value = aws_dynamodb_table.items.arn
}
