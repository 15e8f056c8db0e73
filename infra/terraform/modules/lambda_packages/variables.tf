variable "name" {
  description = "The prefix of the layers' names"
  type        = string
  default     = "headgate"
}

variable "folder" {
  description = "The folder that `headgate package lambda` wrote"
  type        = string
}

variable "reuse_existing_layers" {
  description = "Keep published layer versions when the configuration no longer needs them, so that other functions, and a roll-back, can go on using them"
  type        = bool
  default     = true
}

variable "use_external_layer_arns" {
  description = "Take the layers from external_layer_arns and publish none"
  type        = bool
  default     = false
}

variable "external_layer_arns" {
  description = "Layer versions of another project, powertools and data_processing"
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.external_layer_arns) == 0 || length(var.external_layer_arns) >= 2
    error_message = "Give both layers: powertools and data_processing."
  }
}

variable "layer_revision" {
  description = "Raise it to publish layers again although their content is the same (the specification's force_layer_update)"
  type        = number
  default     = 0
}
