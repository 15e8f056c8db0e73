module "items" {
  source = "../../modules/items_table"
  name   = "sentiment-analyzer-dev"
}

resource "aws_s3_bucket" "raw" {
  bucket_prefix = "market-raw-dev-"
}

resource "aws_lambda_function" "collect" {
  function_name                  = "market-ingestion-dev"
  role                           = aws_iam_role.collect.arn
  package_type                   = "Image"
  image_uri                      = var.image_uri
  timeout                        = 60
  memory_size                    = 512
  reserved_concurrent_executions = 1 # a collection never runs twice at once

  environment {
    variables = {
      DATABASE_TABLE     = module.items.name
      SNS_TOPIC_ARN      = module.news.arn
      ALERT_TOPIC_ARN    = module.alerts.arn
      CLOUD_REGION       = var.region
      TIINGO_SECRET_ARN  = var.tiingo_secret_arn
      FINNHUB_SECRET_ARN = var.finnhub_secret_arn
      HEADGATE_CONFIG    = "/var/task/headgate.toml"

      HEADGATE__BACKENDS__OBJECTS = "s3://${aws_s3_bucket.raw.bucket}/raw"
    }
  }
}

module "schedule" {
  source       = "../../modules/eventbridge_scheduler"
  name         = "market-collect-dev"
  function_arn = aws_lambda_function.collect.arn
}

resource "aws_iam_role" "collect" {
  name = "market-ingestion-dev"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "logs" {
  role       = aws_iam_role.collect.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

# Exactly what the handler calls; tests/infra holds the list to the code.
resource "aws_iam_role_policy" "collect" {
  role = aws_iam_role.collect.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "dynamodb:BatchGetItem",
          "dynamodb:BatchWriteItem",
          "dynamodb:GetItem",
          "dynamodb:PutItem",
          "dynamodb:Query",
          "dynamodb:UpdateItem",
        ]
        Resource = [module.items.arn, "${module.items.arn}/index/*"]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = "${aws_s3_bucket.raw.arn}/*"
      },
      {
        Effect   = "Allow"
        Action   = "sns:Publish"
        Resource = [module.news.arn, module.alerts.arn]
      },
      {
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = [var.tiingo_secret_arn, var.finnhub_secret_arn]
      },
    ]
  })
}
