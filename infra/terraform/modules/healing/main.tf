# The healing sweep on a schedule of its own, so that stuck items are found while no collection runs.

module "failures" {
  source          = "../dead_letter_queue"
  name            = "${var.name}-failures"
  alarm_topic_arn = var.alarm_topic_arn
}

module "function" {
  source               = "../lambda_function"
  name                 = var.name
  description          = "Announces stuck items again"
  handler              = "headgate.handlers.heal"
  code                 = var.code
  timeout_s            = 30
  memory_mb            = 512
  reserved_concurrency = 1
  failure_queue_arn    = module.failures.arn
  alarm_topic_arn      = var.alarm_topic_arn
  log_retention_days   = var.log_retention_days

  environment = {
    ENVIRONMENT     = var.environment
    CLOUD_REGION    = var.region
    DATABASE_TABLE  = var.items_table.name
    SNS_TOPIC_ARN   = var.news_topic.arn
    ALERT_TOPIC_ARN = var.alert_topic.arn
    HEADGATE_CONFIG = var.config_path
    LOG_LEVEL       = var.log_level

    SELF_HEALING_ENABLED         = "true"
    SELF_HEALING_THRESHOLD_HOURS = tostring(var.threshold_hours)
    SELF_HEALING_BATCH_SIZE      = tostring(var.batch_size)
    HEADGATE__BACKENDS__OBJECTS  = "s3://${var.raw_bucket.name}/raw"
    HEADGATE__BACKENDS__LEDGER   = "dynamodb://${var.ledger_table.name}?region=${var.region}"
  }

  statements = concat(
    [
      {
        Sid      = "Items"
        Effect   = "Allow"
        Action   = ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"]
        Resource = [var.items_table.arn]
      },
      {
        Sid      = "Indexes"
        Effect   = "Allow"
        Action   = ["dynamodb:Query"]
        Resource = ["${var.items_table.arn}/index/by_status", "${var.items_table.arn}/index/by_unsent"]
      },
      {
        # Which items a consumer is handling right now.
        Sid      = "Claims"
        Effect   = "Allow"
        Action   = ["dynamodb:BatchGetItem"]
        Resource = [var.ledger_table.arn]
      },
      {
        Sid      = "Announcements"
        Effect   = "Allow"
        Action   = ["sns:Publish"]
        Resource = [var.news_topic.arn, var.alert_topic.arn]
      },
    ],
    length(var.topic_key_arns) == 0 ? [] : [{
      Sid      = "TopicKeys"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = var.topic_key_arns
    }],
  )
}

module "schedule" {
  source              = "../eventbridge_scheduler"
  name                = "${var.name}-schedule"
  function_arn        = module.function.arn
  dead_letter_arn     = module.failures.arn
  schedule_expression = "rate(5 minutes)"
  timezone            = "UTC"
}
