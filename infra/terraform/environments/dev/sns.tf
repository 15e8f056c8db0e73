module "news" {
  source = "../../modules/sns_notification"
  name   = "market-news-dev"
}
