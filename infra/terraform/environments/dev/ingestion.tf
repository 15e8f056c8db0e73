module "collection" {
  source             = "../../modules/collection"
  name               = "market-ingestion-${local.environment}"
  environment        = local.environment
  region             = var.region
  code               = local.code
  items_table        = module.items
  ledger_table       = module.ledger
  raw_bucket         = module.raw
  news_topic         = module.news
  alert_topic        = module.alerts
  topic_key_arns     = concat(module.news.key_arns, module.alerts.key_arns)
  tiingo_secret_arn  = var.tiingo_secret_arn
  finnhub_secret_arn = var.finnhub_secret_arn
  alarm_topic_arn    = module.alerts.arn
}

module "healing" {
  source          = "../../modules/healing"
  name            = "market-healing-${local.environment}"
  environment     = local.environment
  region          = var.region
  code            = local.code
  items_table     = module.items
  ledger_table    = module.ledger
  raw_bucket      = module.raw
  news_topic      = module.news
  alert_topic     = module.alerts
  topic_key_arns  = concat(module.news.key_arns, module.alerts.key_arns)
  alarm_topic_arn = module.alerts.arn
}

module "analysis" {
  source          = "../../modules/consumer"
  name            = "market-analysis-${local.environment}"
  consumer        = "analysis"
  environment     = local.environment
  region          = var.region
  code            = local.code
  topic_arn       = module.news.arn
  items_table     = module.items
  ledger_table    = module.ledger
  alarm_topic_arn = module.alerts.arn
}
