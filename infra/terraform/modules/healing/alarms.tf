# Stuck items that keep coming, items that were given up, and sweeps that fail or do not run.

locals {
  alarms = {
    stuck = {
      description = "Stuck items were found in every sweep of an hour: consumers do not finish what is announced"
      metric      = "SelfHealingItemsFound"
      statistic   = "Minimum"
      threshold   = 1
      period      = 3600
      missing     = "notBreaching"
    }
    quarantined = {
      description = "Items were given up after the last attempt: see docs/runbook.md, quarantine"
      metric      = "SelfHealingItemsQuarantined"
      statistic   = "Sum"
      threshold   = 1
      period      = 300
      missing     = "notBreaching"
    }
    failing = {
      description = "A healing sweep failed"
      metric      = "SelfHealingErrors"
      statistic   = "Sum"
      threshold   = 1
      period      = 300
      missing     = "notBreaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = "SentimentAnalyzer"
  metric_name         = each.value.metric
  dimensions          = { Environment = var.environment }
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = 1
  threshold           = each.value.threshold
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = each.value.missing
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "silent" {
  alarm_name          = "${var.name}-silent"
  alarm_description   = "No healing sweep ran for half an hour"
  namespace           = "SentimentAnalyzer"
  metric_name         = "SelfHealingExecutionTime"
  dimensions          = { Environment = var.environment }
  statistic           = "SampleCount"
  period              = 1800
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
