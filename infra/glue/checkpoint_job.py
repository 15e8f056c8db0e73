"""A Glue or EMR job: event logs into a Delta table, under the same ledger as headgate's own runs.

Job arguments: --source s3a://bucket/prefix --target delta+s3://bucket/prefix [--schema visits|news|module:Model]
[--rescan].
Glue: --additional-python-modules with headgate's wheel and deltalake, --datalake-formats delta.
"""

from __future__ import annotations

import argparse
import json


def main() -> None:
    from pyspark.sql import SparkSession

    from headgate.checkpoint.spark import update_with_spark
    from headgate.cli._checkpoint import schema_of

    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--schema", default="visits")
    parser.add_argument("--rescan", action="store_true")
    options, _ = parser.parse_known_args()  # Glue adds arguments of its own
    spark = (
        SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    schema = schema_of(options.schema)
    print(json.dumps(update_with_spark(spark, options.source, options.target, schema=schema, rescan=options.rescan)))


if __name__ == "__main__":
    main()
