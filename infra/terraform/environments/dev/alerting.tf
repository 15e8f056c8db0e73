module "alerts" {
  source = "../../modules/sns_notification"
  name   = "market-alerts-dev"
  emails = var.operations_emails
}

module "dashboard" {
  source          = "../../modules/cloudwatch_dashboard"
  name            = "market-ingestion-dev"
  region          = var.region
  function_name   = aws_lambda_function.collect.function_name
  alert_topic_arn = module.alerts.arn
}
