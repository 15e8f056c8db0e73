output "name" {
  value = aws_dynamodb_table.ledger.name
}

output "arn" {
  value = aws_dynamodb_table.ledger.arn
}
