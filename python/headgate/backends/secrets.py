"""Keys from AWS Secrets Manager."""

from __future__ import annotations

import json

from headgate.backends._aws_clients import connect_aws
from headgate.errors import AccessError, ConfigError, HeadgateError

_NAMES = ("api_key", "apiKey", "key", "token")


def fetch_secret(arn: str) -> str:
    """The key that a secret holds: its text, or the field api_key (apiKey, key, token) of a JSON object.

    Args:
        arn: of the secret, as in TIINGO_SECRET_ARN.

    Raises:
        ConfigError: boto3 is missing, or the secret holds no such field.
        AccessError: it cannot be read.
    """
    where = {"region": arn.split(":")[3]} if arn.count(":") >= 6 else {}
    try:
        client = connect_aws("secretsmanager", where, needed_by="*_SECRET_ARN").client
        text = client.get_secret_value(SecretId=arn)["SecretString"]
    except HeadgateError:
        raise
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
