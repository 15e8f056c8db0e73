output "code" {
  description = "For module lambda_function"
  value = {
    image_uri      = null
    package        = "${var.folder}/${local.manifest.function.file}"
    package_sha256 = local.manifest.function.sha256_base64
    runtime        = "python${local.manifest.python}"
    layers         = var.use_external_layer_arns ? var.external_layer_arns : [for layer in local.manifest.layers : aws_lambda_layer_version.this[layer.name].arn]
  }

  precondition {
    condition     = !var.use_external_layer_arns || length(var.external_layer_arns) >= 2
    error_message = "use_external_layer_arns needs external_layer_arns."
  }
}

output "layer_arns" {
  description = "To be used by other projects as external_layer_arns"
  value       = [for name, layer in aws_lambda_layer_version.this : layer.arn]
}
