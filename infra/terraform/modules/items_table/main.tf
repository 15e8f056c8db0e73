# The table of headgate.backends.dynamodb_items: keys, indexes and TTL as DynamoStore reads them.

resource "aws_dynamodb_table" "items" {
  name         = var.name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  range_key    = "sk"

  deletion_protection_enabled = var.deletion_protection

  dynamic "attribute" {
    for_each = { pk = "S", sk = "S", status_key = "S", due = "N", unsent_shard = "S", unsent = "S" }
    content {
      name = attribute.key
      type = attribute.value
    }
  }

  global_secondary_index {
    name            = "by_status"
    hash_key        = "status_key"
    range_key       = "due"
    projection_type = "ALL"
  }

  global_secondary_index {
    name            = "by_unsent"
    hash_key        = "unsent_shard"
    range_key       = "unsent"
    projection_type = "ALL"
  }

  ttl {
    attribute_name = "ttl_timestamp"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}
