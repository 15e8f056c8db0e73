# Every five minutes from 9:00 to 16:55 of New York's own time, Monday to Friday. EventBridge Scheduler knows time zones (a rule does
# not); it knows no half hours, holidays and early closes: the handler checks those itself, by the event's time.

resource "aws_scheduler_schedule" "collect" {
  name                         = var.name
  schedule_expression          = "cron(*/5 9-16 ? * MON-FRI *)"
  schedule_expression_timezone = "America/New_York"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = var.function_arn
    role_arn = aws_iam_role.invoke.arn
    input = jsonencode({
      source        = "aws.events"
      "detail-type" = "Scheduled Event"
      time          = "<aws.scheduler.scheduled-time>"
    })

    retry_policy {
      maximum_retry_attempts       = 1
      maximum_event_age_in_seconds = 240
    }
  }
}

resource "aws_iam_role" "invoke" {
  name = "${var.name}-invoke"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "scheduler.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "invoke" {
  role = aws_iam_role.invoke.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "lambda:InvokeFunction"
      Resource = var.function_arn
    }]
  })
}
