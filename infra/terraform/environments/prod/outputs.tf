output "functions" {
  description = "For tools/smoke"
  value = {
    collect    = module.collection.function_name
    heal       = module.healing.function_name
    consume    = module.analysis.function_name
    checkpoint = one(module.checkpoint[*].function_name)
  }
}

output "layer_arns" {
  value = flatten(module.packages[*].layer_arns)
}
