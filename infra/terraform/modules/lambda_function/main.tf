# A function with its role, log group, traces, alarms, and a queue for asynchronous events that it failed to handle.
#
# The role holds the two managed policies for logs and traces, the statements that are given, and nothing else: tests/infra compares
# the statements with the AWS calls that the handlers make.

locals {
  is_image = var.code.image_uri != null
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
}

resource "aws_lambda_function" "this" {
  function_name                  = var.name
  description                    = var.description
  role                           = aws_iam_role.this.arn
  package_type                   = local.is_image ? "Image" : "Zip"
  image_uri                      = var.code.image_uri
  filename                       = var.code.package
  source_code_hash               = var.code.package_sha256
  handler                        = local.is_image ? null : var.handler
  runtime                        = local.is_image ? null : var.code.runtime
  layers                         = local.is_image ? null : var.code.layers
  architectures                  = ["x86_64"]
  timeout                        = var.timeout_s
  memory_size                    = var.memory_mb
  reserved_concurrent_executions = var.reserved_concurrency

  dynamic "image_config" {
    for_each = local.is_image ? [var.handler] : []
    content {
      command = [image_config.value]
    }
  }

  environment {
    variables = var.environment
  }

  tracing_config {
    mode = "Active"
  }

  # Without these the first invocation creates a log group that keeps everything for ever, or fails for lack of rights.
  depends_on = [aws_cloudwatch_log_group.this, aws_iam_role_policy.this]
}

resource "aws_lambda_function_event_invoke_config" "this" {
  count                        = var.failure_queue_arn == null ? 0 : 1
  function_name                = aws_lambda_function.this.function_name
  maximum_retry_attempts       = var.async_retry_attempts
  maximum_event_age_in_seconds = var.maximum_event_age_s

  destination_config {
    on_failure {
      destination = var.failure_queue_arn
    }
  }
}

resource "aws_iam_role" "this" {
  name = var.name
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "managed" {
  for_each = {
    logs   = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    traces = "arn:aws:iam::aws:policy/AWSXRayDaemonWriteAccess"
  }
  role       = aws_iam_role.this.name
  policy_arn = each.value
}

resource "aws_iam_role_policy" "this" {
  name = "function"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      var.statements,
      var.failure_queue_arn == null ? [] : [{
        Sid      = "FailureQueue"
        Effect   = "Allow"
        Action   = ["sqs:SendMessage"]
        Resource = [var.failure_queue_arn]
      }],
    )
  })
}
