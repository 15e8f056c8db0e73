locals {
  alarms = {
    age = {
      description = "A message has waited for more than an hour"
      metric      = "ApproximateAgeOfOldestMessage"
      threshold   = 3600
    }
    depth = {
      description = "More than 1,000 messages wait"
      metric      = "ApproximateNumberOfMessagesVisible"
      threshold   = 1000
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-queue-${each.key}"
  alarm_description   = each.value.description
  namespace           = "AWS/SQS"
  metric_name         = each.value.metric
  dimensions          = { QueueName = aws_sqs_queue.this.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  threshold           = each.value.threshold
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
