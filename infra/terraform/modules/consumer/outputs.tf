output "queue_arn" {
  # Waits for the policy: a subscription made before would lose its first messages.
  value      = aws_sqs_queue.this.arn
  depends_on = [aws_sqs_queue_policy.this]
}

output "queue_name" {
  value = aws_sqs_queue.this.name
}

output "function_name" {
  value = module.function.name
}

output "dead_letters_name" {
  value = module.dead_letters.name
}
