# What `headgate package lambda` made: the function's zip, and its layers.
#
# A layer's name carries the hash of its content. While a layer does not change, neither does its version, and every function and
# project of the account that names the same content uses the same one. Other projects' layers can be given by ARN instead.

locals {
  manifest = jsondecode(file("${var.folder}/manifest.json"))
  layers   = var.use_external_layer_arns ? {} : { for layer in local.manifest.layers : layer.name => layer }
}

resource "aws_lambda_layer_version" "this" {
  for_each                 = local.layers
  layer_name               = "${var.name}-${replace(each.key, "_", "-")}-${substr(each.value.sha256, 0, 12)}"
  description              = "${each.key} of headgate ${local.manifest.headgate}${var.layer_revision == 0 ? "" : ", revision ${var.layer_revision}"}"
  filename                 = "${var.folder}/${each.value.file}"
  source_code_hash         = each.value.sha256_base64
  compatible_runtimes      = ["python${local.manifest.python}"]
  compatible_architectures = [local.manifest.architecture]
  skip_destroy             = var.reuse_existing_layers
}
