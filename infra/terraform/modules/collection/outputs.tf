output "function_name" {
  value = module.function.name
}

output "failures_name" {
  value = module.failures.name
}
