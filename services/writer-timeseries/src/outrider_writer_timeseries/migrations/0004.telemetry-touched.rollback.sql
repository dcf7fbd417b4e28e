DROP TABLE telemetry.late_sample, telemetry.touched;
