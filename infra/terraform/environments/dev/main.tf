terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Application = "headgate"
      Environment = local.environment
    }
  }
}

locals {
  # The image where one is given, otherwise the zips. A list, because the two objects have different types.
  code = concat([for uri in [var.image_uri] : { image_uri = uri } if uri != null], module.packages[*].code)[0]

  environment = "dev"
  keep        = false # tables and buckets may be deleted with the environment
}

# Zips with layers, where no image is given.
module "packages" {
  count  = var.image_uri == null ? 1 : 0
  source = "../../modules/lambda_packages"
  name   = "headgate-${local.environment}"
  folder = var.packages

  use_external_layer_arns = length(var.external_layer_arns) > 0
  external_layer_arns     = var.external_layer_arns
}

module "items" {
  source              = "../../modules/items_table"
  name                = "sentiment-analyzer-${local.environment}"
  deletion_protection = local.keep
}

module "ledger" {
  source              = "../../modules/ledger_table"
  name                = "headgate-ledger-${local.environment}"
  deletion_protection = local.keep
}

module "raw" {
  source        = "../../modules/bucket"
  name          = "market-raw-${local.environment}-${data.aws_caller_identity.current.account_id}"
  force_destroy = !local.keep
}

data "aws_caller_identity" "current" {}
