# What the collection's own metrics say. A handler that answers 400 is no error for Lambda: it counts as a failed collection here.

locals {
  namespace  = "SentimentAnalyzer/Ingestion"
  dimensions = { service = "market-ingestion" }
}

resource "aws_cloudwatch_metric_alarm" "failing" {
  alarm_name          = "${var.name}-success-rate"
  alarm_description   = "Less than 99.5 % of the collections of two hours succeeded"
  namespace           = local.namespace
  metric_name         = "CollectionSuccessRate"
  dimensions          = local.dimensions
  statistic           = "Average"
  period              = 3600
  evaluation_periods  = 2
  threshold           = 99.5
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}

# Six periods of ten minutes with collections, and not one new item. Where no collection was due the period is fine.
resource "aws_cloudwatch_metric_alarm" "no_new_items" {
  alarm_name          = "${var.name}-no-new-items"
  alarm_description   = "Collections ran for an hour and found no new item"
  evaluation_periods  = 6
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]

  metric_query {
    id          = "without"
    expression  = "IF(FILL(runs, 0) > 0 AND FILL(items, 0) < 1, 1, 0)"
    label       = "Periods with collections and no new item"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = {
      runs  = { name = "CollectionSuccessRate", stat = "SampleCount" }
      items = { name = "NewItemsIngested", stat = "Sum" }
    }
    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = local.namespace
        metric_name = metric_query.value.name
        dimensions  = local.dimensions
        period      = 600
        stat        = metric_query.value.stat
      }
    }
  }
}

# 15:00 to 20:00 UTC on weekdays is within the schedule in summer and in winter. A schedule that is disabled, or that may not invoke
# the function, shows here and nowhere else.
resource "aws_cloudwatch_metric_alarm" "silent" {
  alarm_name          = "${var.name}-silent"
  alarm_description   = "The function was not invoked for half an hour of market time"
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]

  metric_query {
    id          = "silence"
    expression  = "IF(DAY(clock) < 6 AND HOUR(clock) >= 15 AND HOUR(clock) < 20, IF(FILL(runs, 0) < 1, 1, 0), 0)"
    label       = "Periods of market time without an invocation"
    return_data = true
  }

  # A series without gaps: DAY() and HOUR() of a metric that has no values at all would have none either.
  metric_query {
    id          = "clock"
    expression  = "TIME_SERIES(1)"
    return_data = false
  }

  metric_query {
    id          = "runs"
    return_data = false

    metric {
      namespace   = "AWS/Lambda"
      metric_name = "Invocations"
      dimensions  = { FunctionName = module.function.name }
      period      = 600
      stat        = "Sum"
    }
  }
}

# Whatever metric math makes of a metric that never had a value: a weekend with a holiday has three days without an invocation.
resource "aws_cloudwatch_metric_alarm" "never" {
  alarm_name          = "${var.name}-never"
  alarm_description   = "The function was not invoked for four days"
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = module.function.name }
  statistic           = "Sum"
  period              = 86400
  evaluation_periods  = 4
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
