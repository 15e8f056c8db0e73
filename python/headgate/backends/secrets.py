"""Keys from AWS Secrets Manager."""

from __future__ import annotations

import json

from headgate.errors import AccessError, ConfigError, needed

_NAMES = ("api_key", "apiKey", "key", "token")


def fetch_secret(arn: str) -> str:
    """The key that a secret holds: its text, or the field api_key (apiKey, key, token) of a JSON object.

    Args:
        arn: of the secret, as in TIINGO_SECRET_ARN.

    Raises:
        ConfigError: boto3 is missing, or the secret holds no such field.
        AccessError: it cannot be read.
    """
    with needed("*_SECRET_ARN needs boto3", "headgate[aws]"):
        import boto3
    region = arn.split(":")[3] if arn.count(":") >= 6 else None
    try:
        text = (
            boto3.Session().client("secretsmanager", region_name=region).get_secret_value(SecretId=arn)["SecretString"]
        )
    except Exception as error:
        # boto3's texts may hold the ARN with its account.
        message = f"the secret of a source cannot be read ({type(error).__name__})"
        raise AccessError(message) from None
    try:
        doc = json.loads(text)
    except ValueError:
        return str(text)
    if isinstance(doc, dict):
        for name in _NAMES:
            if isinstance(doc.get(name), str):
                return str(doc[name])
        message = f"the secret of a source has no field {', '.join(_NAMES)}"
        raise ConfigError(message)
    return str(text)
