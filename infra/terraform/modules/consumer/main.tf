# A consumer of announcements: a queue that a topic feeds, its dead-letter queue, and headgate.handlers.consume, which answers with
# the messages to bring again (partial batch response).

locals {
  timeout_s = 60
}

module "dead_letters" {
  source          = "../dead_letter_queue"
  name            = "${var.name}-dead-letters"
  alarm_topic_arn = var.alarm_topic_arn
  alarm_depth     = var.dead_letters_alarm
}

resource "aws_sqs_queue" "this" {
  name                       = var.name
  visibility_timeout_seconds = 6 * local.timeout_s # as AWS advises for event source mappings
  message_retention_seconds  = 345600
  sqs_managed_sse_enabled    = true

  redrive_policy = jsonencode({
    deadLetterTargetArn = module.dead_letters.arn
    maxReceiveCount     = var.maximum_receives
  })
}

resource "aws_sqs_queue_policy" "this" {
  queue_url = aws_sqs_queue.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Topic"
      Effect    = "Allow"
      Principal = { Service = "sns.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.this.arn
      Condition = { ArnEquals = { "aws:SourceArn" = var.topic_arn } }
    }]
  })
}

module "function" {
  source             = "../lambda_function"
  name               = var.name
  description        = "Handles the messages of ${var.name}"
  handler            = "headgate.handlers.consume"
  code               = var.code
  timeout_s          = local.timeout_s
  memory_mb          = 512
  alarm_topic_arn    = var.alarm_topic_arn
  log_retention_days = var.log_retention_days

  environment = {
    ENVIRONMENT       = var.environment
    CLOUD_REGION      = var.region
    DATABASE_TABLE    = var.items_table.name
    SNS_TOPIC_ARN     = var.topic_arn
    HEADGATE_CONFIG   = var.config_path
    HEADGATE_CONSUMER = var.consumer
    LOG_LEVEL         = var.log_level

    HEADGATE__BACKENDS__LEDGER = "dynamodb://${var.ledger_table.name}?region=${var.region}"
  }

  statements = [
    {
      # What the event source mapping does on the function's behalf.
      Sid      = "Queue"
      Effect   = "Allow"
      Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      Resource = [aws_sqs_queue.this.arn]
    },
    {
      Sid      = "Ledger"
      Effect   = "Allow"
      Action   = ["dynamodb:DescribeTimeToLive", "dynamodb:GetItem", "dynamodb:UpdateItem"]
      Resource = [var.ledger_table.arn]
    },
    {
      Sid      = "Items"
      Effect   = "Allow"
      Action   = ["dynamodb:GetItem", "dynamodb:UpdateItem"]
      Resource = [var.items_table.arn]
    },
  ]
}

resource "aws_lambda_event_source_mapping" "this" {
  event_source_arn                   = aws_sqs_queue.this.arn
  function_name                      = module.function.arn
  batch_size                         = var.batch_size
  maximum_batching_window_in_seconds = 1
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.maximum_concurrency
  }
}
