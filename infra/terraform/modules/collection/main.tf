# The scheduled collection: headgate.handlers.collect every five minutes in market hours, with a healing sweep after each.

module "failures" {
  source          = "../dead_letter_queue"
  name            = "${var.name}-failures"
  alarm_topic_arn = var.alarm_topic_arn
}

module "function" {
  source               = "../lambda_function"
  name                 = var.name
  description          = "Collects market news in market hours"
  handler              = "headgate.handlers.collect"
  code                 = var.code
  timeout_s            = 60
  memory_mb            = 512
  reserved_concurrency = 1 # a collection never runs twice at once
  errors_alarm         = 3
  failure_queue_arn    = module.failures.arn
  alarm_topic_arn      = var.alarm_topic_arn
  log_retention_days   = var.log_retention_days

  environment = merge(
    {
      ENVIRONMENT        = var.environment
      CLOUD_REGION       = var.region
      DATABASE_TABLE     = var.items_table.name
      SNS_TOPIC_ARN      = var.news_topic.arn
      ALERT_TOPIC_ARN    = var.alert_topic.arn
      TIINGO_SECRET_ARN  = var.tiingo_secret_arn
      FINNHUB_SECRET_ARN = var.finnhub_secret_arn
      HEADGATE_CONFIG    = var.config_path
      LOG_LEVEL          = var.log_level

      HEADGATE__BACKENDS__LEDGER  = "dynamodb://${var.ledger_table.name}?region=${var.region}"
      HEADGATE__BACKENDS__OBJECTS = "s3://${var.raw_bucket.name}/raw"
    },
    var.more_environment,
  )

  statements = concat(
    [
      {
        Sid    = "Items"
        Effect = "Allow"
        Action = [
          "dynamodb:BatchGetItem",
          "dynamodb:BatchWriteItem",
          "dynamodb:GetItem",
          "dynamodb:PutItem",
          "dynamodb:UpdateItem",
        ]
        Resource = [var.items_table.arn]
      },
      {
        Sid      = "Indexes"
        Effect   = "Allow"
        Action   = ["dynamodb:Query"]
        Resource = ["${var.items_table.arn}/index/by_status", "${var.items_table.arn}/index/by_unsent"]
      },
      {
        # HeadObject, to tell an own write whose answer was lost from another's, is allowed by GetObject.
        Sid      = "RawBodies"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = ["${var.raw_bucket.arn}/raw/*"]
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
      {
        Sid      = "ApiKeys"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = [var.tiingo_secret_arn, var.finnhub_secret_arn]
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
  source          = "../eventbridge_scheduler"
  name            = "${var.name}-schedule"
  function_arn    = module.function.arn
  dead_letter_arn = module.failures.arn
}
