package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"
)

// plain turns a message into what protobuf's JSON mapping says: camelCase names, 64-bit numbers as
// strings, enumerations by name, unset fields with their defaults.
func plain(value reflect.Value) interface{} {
	switch value.Kind() {
	case reflect.Ptr, reflect.Interface:
		if value.IsNil() {
			return nil
		}
		return plain(value.Elem())
	case reflect.Struct:
		return plainStruct(value)
	case reflect.Slice:
		if value.Type().Elem().Kind() == reflect.Uint8 {
			return value.Bytes()
		}
		list := make([]interface{}, value.Len())
		for i := range list {
			list[i] = plain(value.Index(i))
		}
		return list
	case reflect.Map:
		entries := map[string]interface{}{}
		for _, key := range value.MapKeys() {
			entries[fmt.Sprint(key.Interface())] = plain(value.MapIndex(key))
		}
		return entries
	case reflect.Int32:
		if named, ok := value.Interface().(fmt.Stringer); ok {
			return named.String()
		}
		return value.Int()
	case reflect.Int64, reflect.Uint64:
		return fmt.Sprint(value.Interface())
	default:
		return value.Interface()
	}
}

func plainStruct(value reflect.Value) map[string]interface{} {
	out := map[string]interface{}{}
	for i := 0; i < value.NumField(); i++ {
		tag, tagged := value.Type().Field(i).Tag.Lookup("protobuf")
		if !tagged {
			continue
		}
		name, camel := "", ""
		for _, part := range strings.Split(tag, ",") {
			if strings.HasPrefix(part, "name=") {
				name = strings.TrimPrefix(part, "name=")
			}
			if strings.HasPrefix(part, "json=") {
				camel = strings.TrimPrefix(part, "json=")
			}
		}
		if camel != "" {
			name = camel
		}
		out[name] = plain(value.Field(i))
	}
	return out
}

func message(value interface{}) interface{} { return plain(reflect.ValueOf(value)) }

// withInfo joins a status with the runtime's verbose answers, each of which is a JSON text or a word.
func withInfo(status interface{}, info map[string]string) map[string]interface{} {
	out := map[string]interface{}{"status": message(status)}
	for key, text := range info {
		var parsed interface{}
		if json.Unmarshal([]byte(text), &parsed) != nil {
			parsed = text
		}
		out[key] = parsed
	}
	return out
}

func printAs(format string, value interface{}) error {
	var text []byte
	var err error
	switch format {
	case "json":
		text, err = json.MarshalIndent(value, "", "  ")
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal(value)
	default:
		return fmt.Errorf("output format %q is not known: json, yaml or table", format)
	}
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
}
