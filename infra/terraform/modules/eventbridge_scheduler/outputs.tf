output "name" {
  value = aws_scheduler_schedule.this.name
}
