# Errors, throttles and runs that come near the time-out.

locals {
  alarms = {
    errors = {
      description = "${var.name} failed ${var.errors_alarm} times or more in five minutes"
      metric      = "Errors"
      statistic   = "Sum"
      threshold   = var.errors_alarm
      periods     = 1
    }
    throttles = {
      description = "${var.name} was throttled: more invocations at once than its reserved concurrency, or the account's limit, allows"
      metric      = "Throttles"
      statistic   = "Sum"
      threshold   = 1
      periods     = 1
    }
    duration = {
      description = "${var.name} took ${var.duration_alarm_ms == null ? "80 % of its time-out" : "${var.duration_alarm_ms} ms"} or more"
      metric      = "Duration"
      statistic   = "Maximum"
      threshold   = var.duration_alarm_ms == null ? var.timeout_s * 800 : var.duration_alarm_ms
      periods     = var.duration_alarm_periods
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = "AWS/Lambda"
  metric_name         = each.value.metric
  dimensions          = { FunctionName = aws_lambda_function.this.function_name }
  statistic           = each.value.statistic
  period              = 300
  evaluation_periods  = each.value.periods
  threshold           = each.value.threshold
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
