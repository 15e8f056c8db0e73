# Event logs into one Parquet file: headgate.handlers.checkpoint on a schedule.

locals {
  prefix = trimsuffix(var.source_prefix, "/")
  logs   = local.prefix == "" ? "*" : "${local.prefix}/*"
}

module "failures" {
  source          = "../dead_letter_queue"
  name            = "${var.name}-failures"
  alarm_topic_arn = var.alarm_topic_arn
}

module "function" {
  source                 = "../lambda_function"
  name                   = var.name
  description            = "Adds new event logs to the checkpoint"
  handler                = "headgate.handlers.checkpoint"
  code                   = var.code
  timeout_s              = 900
  memory_mb              = 3008
  reserved_concurrency   = 1 # two runs at once are safe, but one of them would work in vain
  maximum_event_age_s    = 3600
  duration_alarm_ms      = 600000
  duration_alarm_periods = 2
  failure_queue_arn      = module.failures.arn
  alarm_topic_arn        = var.alarm_topic_arn
  log_retention_days     = 30

  environment = {
    SOURCE_BUCKET           = var.source_bucket.name
    CHECKPOINT_BUCKET       = var.checkpoint_bucket.name
    CHECKPOINT_KEY          = var.checkpoint_key
    LOG_LEVEL               = var.log_level
    POWERTOOLS_SERVICE_NAME = "event-log-checkpoint"
  }

  statements = [
    {
      Sid      = "Logs"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${var.source_bucket.arn}/${local.logs}"]
    },
    {
      # Without the right to list, S3 answers 403 instead of 404 for a log that was deleted since it was listed.
      Sid       = "ListLogs"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [var.source_bucket.arn]
      Condition = { StringLike = { "s3:prefix" = [local.logs] } }
    },
    {
      Sid      = "Checkpoint"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject"]
      Resource = ["${var.checkpoint_bucket.arn}/${var.checkpoint_key}"]
    },
    {
      # Segments of the processed-files index and reject logs, beside the checkpoint. A run that loses a race deletes its own.
      Sid      = "CheckpointParts"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = ["${var.checkpoint_bucket.arn}/${var.checkpoint_key}.ledger/*"]
    },
    {
      # Also for objects that are not there yet: a first run asks for the checkpoint itself, and may only know that there is none
      # with the right to list it. Without a condition, since the bucket holds checkpoints alone.
      Sid      = "ListCheckpoint"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = [var.checkpoint_bucket.arn]
    },
  ]
}

module "schedule" {
  source              = "../eventbridge_scheduler"
  name                = "${var.name}-schedule"
  function_arn        = module.function.arn
  dead_letter_arn     = module.failures.arn
  schedule_expression = var.schedule_expression
  timezone            = "UTC"
  maximum_event_age_s = 3600
  input               = { prefix = local.prefix == "" ? "" : "${local.prefix}/" }
}
