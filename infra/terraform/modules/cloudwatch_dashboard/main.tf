# One page: the collection, healing, the checkpoint, the functions and the queues.

locals {
  # Each metric of ours in every combination of its dimensions.
  own = concat(
    [for title, names in {
      "1 Collections" = ["CollectionSuccessRate", "CollectionSuccess", "CollectionFailure"]
      "2 Latency"     = ["CollectionLatencyMs", "NotificationLatencyMs", "HighLatencyAlert"]
      "3 Items"       = ["NewItemsIngested", "ItemsCollected", "ItemsDuplicate", "DuplicateRate"]
      "4 Failover"    = ["FailoverCount", "FailoverDurationSeconds", "PrimaryRecoveryAttempt", "PrimaryRecoverySuccess"]
    } : { title = title, namespace = "SentimentAnalyzer/Ingestion", names = names }],
    [for title, names in {
      "5 Healing" = ["SelfHealingItemsFound", "SelfHealingItemsRepublished", "SelfHealingItemsQuarantined", "SelfHealingErrors", "SelfHealingExecutionTime"]
    } : { title = title, namespace = "SentimentAnalyzer", names = names }],
    [for title, names in {
      "6 Checkpoint events" = ["FilesRetrieved", "NewEventsProcessed", "EventsFailed", "TotalEvents"]
      "7 Checkpoint runs"   = ["RunFailed", "ProcessingSuccessRate", "ExecutionTime", "CheckpointFileSize", "IncrementalRun"]
    } : { title = title, namespace = "EventLogCheckpoint", names = names }],
  )
  searches = [for row in local.own : {
    title   = row.title
    metrics = [for name in row.names : [{ expression = "SEARCH('Namespace=\"${row.namespace}\" MetricName=\"${name}\"', 'Average', 300)" }]]
  }]
  functions = [for name, stat in { Errors = "Sum", Throttles = "Sum", Duration = "Maximum" } : {
    title   = "8 Functions: ${name}"
    metrics = [for function in var.function_names : ["AWS/Lambda", name, "FunctionName", function, { stat = stat }]]
  }]
  queues = [for name in ["ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"] : {
    title   = "9 Queues: ${name}"
    metrics = [for queue in var.queue_names : ["AWS/SQS", name, "QueueName", queue, { stat = "Maximum" }]]
  }]
  # Rows of one list must have one type; JSON texts do.
  rows = concat([for row in local.searches : jsonencode(row)], [for row in local.functions : jsonencode(row)], [for row in local.queues : jsonencode(row)])
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [for i, row in local.rows : {
      type   = "metric"
      x      = (i % 2) * 12
      y      = floor(i / 2) * 6
      width  = 12
      height = 6
      properties = merge(jsondecode(row), {
        region = var.region
        period = 300
        stat   = "Average"
      })
    }]
  })
}
