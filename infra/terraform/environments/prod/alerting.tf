# One topic for alarms of CloudWatch and alerts of the collection.

module "alerts" {
  source              = "../../modules/sns_notification"
  name                = "market-alerts-${local.environment}"
  emails              = var.operations_emails
  publishing_services = ["cloudwatch.amazonaws.com", "events.amazonaws.com"]
}

module "dashboard" {
  source         = "../../modules/cloudwatch_dashboard"
  name           = "market-ingestion-${local.environment}"
  region         = var.region
  function_names = concat([module.collection.function_name, module.healing.function_name, module.analysis.function_name], module.checkpoint[*].function_name)
  queue_names = concat(
    [module.analysis.queue_name, module.analysis.dead_letters_name, module.collection.failures_name, module.healing.failures_name],
    module.checkpoint[*].failures_name,
  )
}
