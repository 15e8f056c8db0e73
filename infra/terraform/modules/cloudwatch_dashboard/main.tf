# What the metrics of a collection look like, and the alarms that need no person to look.

locals {
  namespace = "SentimentAnalyzer/Ingestion"
  rows = [
    { title = "Collections", metrics = ["CollectionSuccessRate", "CollectionSuccess", "CollectionFailure"] },
    { title = "Latency", metrics = ["CollectionLatencyMs", "NotificationLatencyMs", "HighLatencyAlert"] },
    { title = "Items", metrics = ["ItemsCollected", "ItemsDuplicate", "DuplicateRate"] },
    { title = "Failover", metrics = ["FailoverCount", "FailoverDurationSeconds", "PrimaryRecoveryAttempt", "PrimaryRecoverySuccess"] },
  ]
}

resource "aws_cloudwatch_dashboard" "ingestion" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [for i, row in local.rows : {
      type   = "metric"
      x      = (i % 2) * 12
      y      = floor(i / 2) * 6
      width  = 12
      height = 6
      properties = {
        title   = row.title
        region  = var.region
        period  = 300
        stat    = "Average"
        metrics = [for metric in row.metrics : [{ expression = "SEARCH('Namespace=\"${local.namespace}\" MetricName=\"${metric}\"', 'Average', 300)" }]]
      }
    }]
  })
}

resource "aws_cloudwatch_metric_alarm" "failing" {
  alarm_name          = "${var.name}-success-rate"
  alarm_description   = "Less than 99.5 % of the collections of two hours succeeded (SC-004)"
  namespace           = local.namespace
  metric_name         = "CollectionSuccessRate"
  dimensions          = { service = "market-ingestion" }
  statistic           = "Average"
  period              = 3600
  evaluation_periods  = 2
  threshold           = 99.5
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alert_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.name}-errors"
  alarm_description   = "The function itself failed three times in five minutes"
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = var.function_name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alert_topic_arn]
}
