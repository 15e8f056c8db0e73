# Announcements of new items. Only the functions publish here, so no AWS service needs the key.

module "news" {
  source          = "../../modules/sns_notification"
  name            = "market-news-${local.environment}"
  queues          = { analysis = { arn = module.analysis.queue_arn, topics = ["market.items"] } }
  alarm_topic_arn = module.alerts.arn
}
