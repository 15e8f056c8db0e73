output "arn" {
  # Whoever gets the ARN from here waits for the policy, so that the first message is not refused.
  value      = aws_sns_topic.this.arn
  depends_on = [aws_sns_topic_policy.this]
}

output "name" {
  value = aws_sns_topic.this.name
}

output "key_arns" {
  description = "The key that publishers must be allowed to use: one, or none"
  value       = aws_kms_key.this[*].arn
}
