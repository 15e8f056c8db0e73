# A topic for announcements or alerts, with its subscriptions.
#
# An AWS service that publishes (CloudWatch alarms, EventBridge rules) needs two permissions: the topic's policy, and the use of the
# key that encrypts the topic. The AWS managed key alias/aws/sns grants no service anything, and its policy cannot be changed, so that
# alarms on such a topic are never delivered. An encrypted topic therefore has a key of its own.

data "aws_caller_identity" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  root    = "arn:aws:iam::${local.account}:root"

  # EventBridge sends neither aws:SourceAccount nor aws:SourceArn when it publishes to an encrypted topic: a condition on them would
  # refuse every event of its rules.
  conditional   = [for service in var.publishing_services : service if service != "events.amazonaws.com"]
  unconditional = [for service in var.publishing_services : service if service == "events.amazonaws.com"]
}

resource "aws_kms_key" "this" {
  count               = var.encrypted ? 1 : 0
  description         = "${var.name} topic"
  enable_key_rotation = true

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        # Roles of this account get the use of the key from their own policies.
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = local.root }
        Action    = "kms:*"
        Resource  = "*"
      }],
      [for service in local.conditional : {
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["kms:GenerateDataKey*", "kms:Decrypt"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      }],
      [for service in local.unconditional : {
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["kms:GenerateDataKey*", "kms:Decrypt"]
        Resource  = "*"
      }],
    )
  })
}

resource "aws_sns_topic" "this" {
  name              = var.name
  kms_master_key_id = one(aws_kms_key.this[*].arn)
}

resource "aws_sns_topic_policy" "this" {
  arn = aws_sns_topic.this.arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = local.root }
        Action    = ["sns:Publish", "sns:Subscribe", "sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic"]
        Resource  = aws_sns_topic.this.arn
      }],
      [for service in local.conditional : {
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.this.arn
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      }],
      [for service in local.unconditional : {
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.this.arn
      }],
    )
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each  = toset(var.emails)
  topic_arn = aws_sns_topic.this.arn
  protocol  = "email"
  endpoint  = each.value
}

# Raw delivery: the consumers read the message itself and its attributes, not SNS's envelope. The attribute `topic` is headgate's name
# for what a message is; each queue gets only what its consumer listens to.
resource "aws_sns_topic_subscription" "queue" {
  for_each             = var.queues
  topic_arn            = aws_sns_topic.this.arn
  protocol             = "sqs"
  endpoint             = each.value.arn
  filter_policy        = jsonencode({ topic = each.value.topics })
  raw_message_delivery = true
}

resource "aws_cloudwatch_metric_alarm" "failed" {
  count               = var.alarm_topic_arn == null ? 0 : 1
  alarm_name          = "${var.name}-delivery-failures"
  alarm_description   = "More than five messages could not be delivered to a subscriber in five minutes"
  namespace           = "AWS/SNS"
  metric_name         = "NumberOfNotificationsFailed"
  dimensions          = { TopicName = aws_sns_topic.this.name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 5
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
