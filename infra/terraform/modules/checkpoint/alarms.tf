# The handler answers 400 and 500 instead of raising, which is no error for Lambda: RunFailed counts those answers.

locals {
  alarms = {
    failed = {
      description = "A run failed; the checkpoint is as it was"
      metric      = "RunFailed"
      statistic   = "Sum"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = 1
      period      = 300
      missing     = "notBreaching"
    }
    rejected = {
      description = "More than 10 % of the events of a run were rejected or could not be read"
      metric      = "ProcessingSuccessRate"
      statistic   = "Minimum"
      comparison  = "LessThanThreshold"
      threshold   = 90
      period      = 300
      missing     = "notBreaching"
    }
    silent = {
      description = "No run succeeded in a day"
      metric      = "TotalEvents"
      statistic   = "SampleCount"
      comparison  = "LessThanThreshold"
      threshold   = 1
      period      = 86400
      missing     = "breaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = "EventLogCheckpoint"
  metric_name         = each.value.metric
  dimensions          = { service = "event-log-checkpoint" }
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = 1
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison
  treat_missing_data  = each.value.missing
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
