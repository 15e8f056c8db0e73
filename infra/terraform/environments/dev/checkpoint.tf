module "checkpoints" {
  count         = var.event_log_bucket == null ? 0 : 1
  source        = "../../modules/bucket"
  name          = "event-checkpoints-${local.environment}-${data.aws_caller_identity.current.account_id}"
  force_destroy = !local.keep
}

module "checkpoint" {
  count             = var.event_log_bucket == null ? 0 : 1
  source            = "../../modules/checkpoint"
  name              = "event-log-checkpoint-${local.environment}"
  code              = local.code
  source_bucket     = { name = var.event_log_bucket, arn = "arn:aws:s3:::${var.event_log_bucket}" }
  source_prefix     = var.event_log_prefix
  checkpoint_bucket = module.checkpoints[0]
  alarm_topic_arn   = module.alerts.arn
}
