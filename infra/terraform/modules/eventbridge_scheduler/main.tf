# A schedule that invokes a Lambda function. The default is every five minutes from 9:00 to 16:55 New York time, Monday to Friday.
# EventBridge Scheduler knows time zones (a rule does not), but no half hours, holidays or early closes: the collection handler checks
# those itself, by the event's time.
#
# Events that cannot be delivered go to the dead-letter queue after the retries.

locals {
  # jsonencode() writes < and > as \u003c and \u003e. The scheduler replaces <aws.scheduler.scheduled-time> only where it is written
  # literally, so the two characters are restored. No other part of the input may hold them.
  input = replace(replace(jsonencode(var.input), "\\u003c", "<"), "\\u003e", ">")
}

data "aws_caller_identity" "current" {}

resource "aws_scheduler_schedule" "this" {
  name                         = var.name
  schedule_expression          = var.schedule_expression
  schedule_expression_timezone = var.timezone

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = var.function_arn
    role_arn = aws_iam_role.invoke.arn
    input    = local.input

    dead_letter_config {
      arn = var.dead_letter_arn
    }

    retry_policy {
      maximum_retry_attempts       = var.retry_attempts
      maximum_event_age_in_seconds = var.maximum_event_age_s
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
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "invoke" {
  name = "invoke"
  role = aws_iam_role.invoke.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "lambda:InvokeFunction"
        Resource = var.function_arn
      },
      {
        Effect   = "Allow"
        Action   = "sqs:SendMessage"
        Resource = var.dead_letter_arn
      },
    ]
  })
}
